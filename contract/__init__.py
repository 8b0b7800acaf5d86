"""What both daemons share: messages, topics, units, clock and bus.

Pure but for `bus_mqtt`, the only importer of the MQTT library. Neither `agent` nor `controller` is imported from here.
"""
