"""Generated from protos/tollkeeper/v1; do not edit."""
