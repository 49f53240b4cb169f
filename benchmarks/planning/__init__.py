"""What planning costs the controller: pure functions against `json.dumps` of the objects that they want."""
