"""How a replica tells of its requests by OpenTelemetry and in its log. The only room here that knows either."""
