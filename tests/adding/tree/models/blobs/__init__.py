"""Points around four centres, told apart by one linear layer; the example of docs/ADDING.md."""
