"""How fake engines of several nodes meet, and how those without an API end."""
