"""Who may ask, for what, and how much: keys, CORS, routes, admission."""
