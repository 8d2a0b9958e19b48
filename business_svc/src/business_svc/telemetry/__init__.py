"""How the business tells of its calls by OpenTelemetry and in its log. The only room here that knows either."""
