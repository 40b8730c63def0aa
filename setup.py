"""What pyproject.toml cannot say: the wheel carries the folder bitstreams/ as hw/bitstreams/."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hw*", "sw*", "sim*"]), "hw.bitstreams"],
    package_dir={"hw.bitstreams": "bitstreams"},
)
