"""Events: what users did, each stored once however often it is sent."""
