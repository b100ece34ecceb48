"""Where questions come from: files and generators, and the mixture that deals them out."""
