"""The server: the app, who may call it, its errors and figures; all that knows the web."""
