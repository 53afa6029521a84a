"""What Privet costs beside what it would cost without, as ratios measured side by side in one run."""
