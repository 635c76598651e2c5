"""What attention does: captured, followed through the blocks, scored against objects, drawn."""
