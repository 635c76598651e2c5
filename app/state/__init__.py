"""What the app keeps between reruns: the loaded model, choices in the address, measurements, runs."""
