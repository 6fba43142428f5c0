"""Who may ask for what, when, and how much: keys, CORS, routes, readiness, admission."""
