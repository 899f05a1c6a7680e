"""Who may do what, and how often: projects, API tokens, scopes, rate limits, audit."""
