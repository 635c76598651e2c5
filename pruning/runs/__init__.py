"""Run folders: started, watched, cancelled, resumed and read."""
