"""The commands of `gossamer`: one file each, which parses and prints."""
