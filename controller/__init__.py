"""The controller: admission, resolving, the HTTP API, collection of garbage."""
