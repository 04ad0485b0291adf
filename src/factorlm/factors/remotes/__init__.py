"""Stores that are shared: published versions of factors in a folder, behind http(s), or in a repository of the hub.

Layout, the same everywhere: `NAME/VERSION/factor.json`, `NAME/VERSION/weights.safetensors`, and `index.json`, which
is written last, so that what it names is there. A folder that was pushed to can be served by any web server.
"""
