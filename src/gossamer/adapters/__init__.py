"""An adapter as data: read, check, digest, convert, write. Import from the modules."""
