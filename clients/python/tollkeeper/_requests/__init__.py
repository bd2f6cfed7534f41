"""From Python arguments to protobuf requests. Pure, but for the request ids that it makes up.

Bounds are the server's to check, so that there is one place that knows them. What cannot be said in the contract, as
a time without a time zone, is refused here with TypeError or ValueError.
"""
