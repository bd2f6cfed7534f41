"""From protobuf answers to results. Pure. What a later version of the contract says becomes UNSPECIFIED."""
