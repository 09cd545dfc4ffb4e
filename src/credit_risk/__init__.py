"""What more than one room of the project needs, once. The package never imports from a room."""
