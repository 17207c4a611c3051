"""The version of the studio."""

VERSION = "0.2.0"
