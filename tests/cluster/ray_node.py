"""The command `ray`, whose nodes keep the address 127.0.0.1; with another one they listen everywhere."""

from ray._private import services
from ray.scripts.scripts import main

services.get_node_ip_address = lambda address=None: "127.0.0.1"

if __name__ == "__main__":
    main()
