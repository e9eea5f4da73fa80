"""What a data set holds, and which simulator made it."""
