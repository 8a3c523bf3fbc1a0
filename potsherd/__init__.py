"""potsherd: keeps datasets alive on disk that people and institutes give."""

__version__ = "0.1.0"
