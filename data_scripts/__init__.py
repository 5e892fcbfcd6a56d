"""One dataset builder per file; each reads the official files of its dataset and yields plain rows."""
