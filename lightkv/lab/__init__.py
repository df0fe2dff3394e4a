"""The lab: ablation grids, tuning, reports and pictures. Sits on top; nothing below imports it."""
