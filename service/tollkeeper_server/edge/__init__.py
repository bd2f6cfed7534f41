"""The face towards gateways: Envoy's external authorization and rate limits, in the words of each public API."""
