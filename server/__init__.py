"""The service: API, scheduler, job dispatcher and page. Run it with `python -m server`."""
