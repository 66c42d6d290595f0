"""What one trial does: distil a frozen teacher into a student as one TrialConfig says. Knows neither search nor spaces.

Letters in shape comments: B batch, C classes, D embedding, d projection, K queue rows, N images, H and W pixels.
"""
