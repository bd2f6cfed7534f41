"""The canary: a watcher that makes keys, ends them, and looks everywhere whether they are dead."""
