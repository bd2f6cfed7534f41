"""The version of this distribution, as its metadata says."""

from importlib.metadata import version

__version__ = version("tollkeeper")
