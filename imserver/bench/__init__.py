"""`imserver bench`: the load generator in the box, which also verifies what it measured.

* wire.py: frames made and found in bulk, without decoding them one by one
* pairs.py: senders and recipients over one epoll loop
* verify.py: was every message delivered once, in order, and stored?
* report.py: the figures
"""
