"""What the API takes and gives, apart from the tables: one module a concept, every field described."""
