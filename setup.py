"""Package the folder bitstreams/ as hw/bitstreams/, which pyproject.toml cannot express."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hw*", "sw*", "sim*"]), "hw.bitstreams"],
    package_dir={"hw.bitstreams": "bitstreams"},
)
