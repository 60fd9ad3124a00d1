"""Pages in the browser, served on this machine: the server, what keeps others away, and the frame of every page."""
