"""Where models come from: the demo, timm, the hub, weights files, bundles; and their preprocessing."""
