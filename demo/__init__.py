"""A made-up shop that runs two experiments through the service's HTTP API, and knows what should come out."""
