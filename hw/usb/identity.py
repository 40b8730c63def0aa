"""The names by which a host recognises the board's own USB device. This file needs no LUNA."""

VENDOR_ID = 0x1209
"""USB vendor ID of pid.codes, which assigns product IDs to open hardware."""
PRODUCT_ID = 0x0001
"""Product ID that pid.codes reserves for tests. Boards that are passed on need one of their own."""
MANUFACTURER = "Spikefold"
PRODUCT = "Spikefold USB serial port"
"""Name of the device. It tells the device from others with the same test IDs."""
