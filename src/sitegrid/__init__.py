"""sitegrid: a service in every edge site from two YAML files, with each site's traffic kept inside the site."""

from typing import Final

__version__: Final = "0.1.0"
