"""From nginx to Fairlead: an nginx configuration is read and said again in Fairlead's options."""
