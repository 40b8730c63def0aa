// Memories of iCE40 devices, from Lattice's "Memory Usage Guide for iCE40 Devices" and "iCE40 SPRAM
// Usage Guide". Where the guides promise no value, these models return one that is surely wrong.

// Block RAM: 256 rows of 16 bits, which the modes divide in 1, 2, 4 or 8 parts. A read of a row that
// is being written returns its complement.
module ice40_ram #(
    parameter READ_MODE = 0, WRITE_MODE = 0,
    parameter [4095:0] INIT = 0
) (
    input RCLK, RCLKE, RE, input [10:0] RADDR, output [15:0] RDATA,
    input WCLK, WCLKE, WE, input [10:0] WADDR, input [15:0] MASK, WDATA
);
    reg [15:0] rows [0:255];
    reg [15:0] row;
    reg [2:0] part;
    wire [15:0] enabled, data;
    genvar i;
    integer n;
    initial for (n = 0; n < 256; n = n + 1) rows[n] = INIT[16 * n +: 16];
    // With 2, 4 and 8 parts, the data bits are 0, 2, 4, ..., 14; 1, 5, 9, 13; 3 and 11.
    localparam READ_PARTS = 1 << READ_MODE, WRITE_PARTS = 1 << WRITE_MODE;
    localparam READ_PIN = READ_MODE == 2 ? 1 : READ_MODE == 3 ? 3 : 0;
    localparam WRITE_PIN = WRITE_MODE == 2 ? 1 : WRITE_MODE == 3 ? 3 : 0;
    generate
        for (i = 0; i < 16; i = i + 1) begin
            assign enabled[i] = WRITE_MODE == 0 ? !MASK[i]
                : (WADDR[10:8] & (WRITE_PARTS - 1)) == i % WRITE_PARTS;
            assign data[i] = WDATA[i - i % WRITE_PARTS + WRITE_PIN];
            if (i % READ_PARTS == READ_PIN)
                assign RDATA[i] = row[i - READ_PIN + (part & (READ_PARTS - 1))];
            else
                assign RDATA[i] = 0;
        end
    endgenerate
    wire collides = WE && WCLKE && WADDR[7:0] == RADDR[7:0];
    always @(posedge WCLK) if (WE && WCLKE)
        rows[WADDR[7:0]] <= (rows[WADDR[7:0]] & ~enabled) | (data & enabled);
    always @(posedge RCLK) if (RE && RCLKE) begin
        row <= rows[RADDR[7:0]] ^ {16{collides}};
        part <= RADDR[10:8];
    end
endmodule

// SPRAM of the UltraPlus: its contents at power-up, and its output after a write, are unknown.
module ice40_spram (
    input [13:0] ADDRESS, input [15:0] DATAIN, input [3:0] MASKWREN,
    input WREN, CHIPSELECT, CLOCK, STANDBY, SLEEP, POWEROFF, output reg [15:0] DATAOUT
);
    reg [15:0] rows [0:16383];
    integer n;
    initial for (n = 0; n < 16384; n = n + 1) rows[n] = (n * 40503 + 12345) ^ (n >> 3);
    wire [15:0] mask = {{4{MASKWREN[3]}}, {4{MASKWREN[2]}}, {4{MASKWREN[1]}}, {4{MASKWREN[0]}}};
    always @(posedge CLOCK) if (CHIPSELECT && POWEROFF && !SLEEP && !STANDBY) begin
        if (WREN) begin
            rows[ADDRESS] <= (rows[ADDRESS] & ~mask) | (DATAIN & mask);
            DATAOUT <= ~DATAIN;
        end else
            DATAOUT <= rows[ADDRESS];
    end
endmodule
