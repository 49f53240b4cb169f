"""sitegrid: a service in every edge site from two YAML files, with each site's traffic kept inside the site.

The version alone is here, so that importing any part costs nothing else. ``tests/cli/test_main.py`` holds what the
command does as a whole.
"""

from typing import Final

__version__: Final = "0.1.0"
