"""LayerGate in front of any HTTP application: ``layergate serve``. See `docs/gateway.md`."""
