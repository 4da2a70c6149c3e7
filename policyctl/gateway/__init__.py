"""The gateway: runs policies on live requests, with the rules that `effect` computes with."""
