"""What commands share: options made from settings, tables, the words of other tools."""
