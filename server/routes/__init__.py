"""The routes of the API, one module a concept: parse, one call, answer."""
