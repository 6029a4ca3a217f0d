"""What is known about engines that ended unasked."""
