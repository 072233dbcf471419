"""The C target: a header and a source."""
