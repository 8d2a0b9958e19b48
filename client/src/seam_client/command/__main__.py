"""`python -m seam_client.command` is the command `seam`."""

from seam_client.command import main

main()
