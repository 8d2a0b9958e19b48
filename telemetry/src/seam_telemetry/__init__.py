"""How a service tells of itself. Knows no contract and no service; nothing here is global to the process."""
