"""The lint rules, P4xx and P5xx, which follow from gateway profile portkey-1.15.2.

A rule of severity warning finds what is almost surely a slip, or does not do what it seems to; one of severity info describes
what a policy means where people are often surprised.
"""

from __future__ import annotations

from policyctl.errors import Rule


def _warning(code: str, name: str, text: str) -> Rule:
    return Rule(code, name, "warning", text)


def _info(code: str, name: str, text: str) -> Rule:
    return Rule(code, name, "info", text)


_TARGETS = (
    _warning(
        "P401",
        "dead-single-targets",
        "Under single only the first target is ever called; the others are never used, whatever the first one answers. "
        "The file promises a protection that is not there. Remove the other targets, or use fallback.",
    ),
    _warning(
        "P402",
        "fallback-never-moves-on",
        "An empty on_status_codes makes a fallback move on after nothing at all: it is not the default, which needs the key "
        "to be absent. The same holds for a list of nothing but 205, 304 and 407, which never come out of a target. The "
        "targets after the first are never called. List codes, or remove on_status_codes.",
    ),
    _warning(
        "P403",
        "one-target-fallback",
        "A fallback with one target has nothing to fall back on: it does exactly what single does. Add a second target, or "
        "write mode: single.",
    ),
    _info(
        "P404",
        "one-target-loadbalance",
        "A load balance of one target always draws that one: it does exactly what single does. Add a second target, or "
        "write mode: single.",
    ),
    _warning(
        "P405",
        "duplicate-target",
        "One group has the same model twice. Under loadbalance both draw for it and their shares add up; under fallback it "
        "is asked a second time at once, after it just failed. Remove one of them; to ask a model again after a wait, use "
        "retry.",
    ),
)

_CODES = (
    _warning(
        "P411",
        "fallback-on-success",
        "A fallback moves on after exactly the codes in its list, a success among them: a good and paid answer is thrown "
        "away and the next target is asked. Remove the codes from 200 to 299.",
    ),
    _warning(
        "P412",
        "retry-on-success",
        "A retry repeats after exactly the codes in its list, a success among them: a good and paid answer is thrown away "
        "and the same target is asked again after a wait. Remove the codes from 200 to 299.",
    ),
    _warning(
        "P413",
        "code-never-triggers",
        "No target's result ever has this status, so a fallback can not move on after it: 407 reaches it as a broken "
        "connection (500), and after 205 and 304 the gateway itself ends the whole request with a 500. List what you "
        "mean (500 for broken connections), or remove it.",
    ),
    _warning(
        "P414",
        "duplicate-code",
        "A list of status codes has the same code twice. The second one does nothing, and may have been meant to be "
        "another (502 for 503). Correct or remove it.",
    ),
    _info(
        "P415",
        "fallback-without-codes",
        "A fallback without on_status_codes moves on after every status outside 200 to 299. So a bad request (400) or a bad "
        "key (401) is sent on to every target too, and each may cost time and money. If that is not meant, list the codes, "
        "for example [408, 429, 500, 502, 503, 504].",
    ),
    _warning(
        "P416",
        "codes-ignored",
        "Only a fallback looks at its strategy's on_status_codes. Under loadbalance the drawn target's failure is the "
        "group's, and single never moves on, whatever the list contains. Remove the list, or use fallback; for repeats, write "
        "retry.on_status_codes.",
    ),
)

_RETRIES = (
    _warning(
        "P421",
        "codes-without-attempts",
        "A retry with attempts: 0 repeats nothing, so its on_status_codes are never looked at. Raise attempts, or remove the "
        "list.",
    ),
    _info(
        "P422",
        "retry-without-effect",
        "attempts: 0 means no repeats, which is what holds without a retry too. It has an effect only in a nested group "
        "below a retry with attempts, which it switches off. Remove it, or raise attempts.",
    ),
    _warning(
        "P423",
        "retry-on-no-status",
        "An empty on_status_codes is not the default list: no status is retried. Only broken connections (refused, closed, "
        "not set up in time) are still asked again, with any list. Remove on_status_codes for 429, 500, "
        "502, 503 and 504, or list codes.",
    ),
    _warning(
        "P424",
        "retry-overridden",
        "A retry is inherited by the targets below, and the nearest one wins as a whole. Here every target that can be called "
        "lies in a group with its own retry, so this one is never used, and nothing of it is merged into the others. Remove "
        "it, or the ones below.",
    ),
    _warning(
        "P425",
        "retry-after-ignored",
        "With use_retry_after_header the gateway waits as long as the Retry-After of a 429 asks, before it repeats the call. "
        "That holds for a 429 which the retry repeats; this one has no attempts, or a list without 429. List 429, raise "
        "attempts, or remove use_retry_after_header.",
    ),
    _warning(
        "P426",
        "retry-around-policy",
        "A target that is another policy has the retries of that policy. Whether the platform also repeats that policy as a "
        "whole for a retry around the target is not known: policyctl counts these repeats in the worst case (calls, waits, "
        "max_calls, max_failover_seconds), and in nothing that it calls served. Put the retry into the policy, or into a group "
        "with the other targets.",
    ),
)

_WEIGHTS = (
    _warning(
        "P431",
        "missing-weight",
        "A target without a weight counts 1, also beside fractions: next to 0.25 it gets 80% of the requests, not 75%. Write "
        "a weight at every target of the load balance, or at none.",
    ),
    _warning(
        "P432",
        "weights-sum",
        "The weights of a load balance do not sum to 1. A target's share is its weight divided by the sum, so a weight is not "
        "the share that it looks like: of 0.75 and 0.4 the first gets 65.22%. Make them sum to 1; what "
        "rounding to three decimals leaves (0.333 three times) is not reported.",
    ),
    _warning(
        "P433",
        "weight-ignored",
        "Weights mean something under loadbalance only. A fallback asks its targets in the order written, single asks the "
        "first. Remove the weight, or use loadbalance.",
    ),
)

_NAMES = (
    _warning(
        "P441",
        "no-prefix",
        "A target's name begins with neither virtual-model/ nor virtual-policy/. If no policy has that name, it is read as a "
        "model (openai/gpt-4o is virtual-model/openai/gpt-4o, of the provider openai) and written with the spelling that the "
        "remote knows. By IBM's documentation a policy may target only models whose names begin with virtual-model/; where the "
        "remote does not list its models, the platform takes other names and fails when they are called. Write the whole name.",
    ),
    _warning(
        "P442",
        "no-provider",
        "A model's name has the form virtual-model/<provider>/<model>, and a part of this one is missing. Write the whole "
        "name.",
    ),
    _warning(
        "P443",
        "foreign-placeholder",
        "A name, a model or a variable holds what looks like a placeholder of another tool: ${NAME}, $(NAME), <name>, "
        "env:NAME, %NAME%, [[name]] and their like. Nothing fills it in here, so the platform would get it unchanged. "
        'Write a template, "{{ NAME }}", and give NAME a value under vars of each environment in policyctl.yaml.',
    ),
    _warning(
        "P451",
        "unknown-policy",
        "A target is a policy that no file of the directory declares, though the directory manages that name (its scope "
        "covers it, and policies without a file are removed). After an apply that policy does not exist. Correct the name, "
        "or add the policy. Checked when a whole directory without errors is validated.",
    ),
    _warning(
        "P452",
        "unknown-model",
        "The directory declares virtual models of this provider, or one of nearly this name, and this target's model is not "
        "among them. It may be declared elsewhere, but most often it is a typo, and every call to it fails. Correct the name, "
        "or declare the model. Checked when a whole "
        "directory without errors is validated.",
    ),
    _warning(
        "P453",
        "mixed-types",
        "The directory declares the models of one policy with different values of model_type, such as chat and embedding. "
        "Requests of one kind come to a policy, and a model of another type fails all of them, so it does not help in "
        "an outage "
        "either. A policy takes the requests of its first target that has a type; a load balance, whose targets have no "
        "order, takes chats where one of them does. A declared model without model_type is a chat model, and chat_vision "
        "takes chats too. Use a model of the same type. Checked when a whole directory without errors is validated.",
    ),
)

_SETTINGS = (
    _warning(
        "P454",
        "undeclared-use",
        "The file of an agent, flow, knowledge base or control names a policy or model that no file here declares. Only names "
        "with their prefix count. Policies count where this directory manages every policy of such a name, models where it "
        "manages models or declares others of the same provider. Nothing on the platform checks these names. Correct it, or "
        "add the policy or model.",
    ),
    _warning(
        "P461",
        "idle-setting",
        "A name or glob in scope, protect or guard_exceptions of policyctl.yaml matches no policy of the files, in any "
        "environment that it applies to. What it should cover is not covered, most often because of a typo. Correct the "
        "name, or remove it. validate knows only the files; plan also looks at the remote, and adds a note where neither "
        "matches.",
    ),
    _info(
        "P462",
        "idle-allowance",
        "A name in allow_remove matches no policy of the files. That is right for a policy that is about to be "
        "removed; only plan can see whether a live one has the name, and it adds a note where none has. Remove the name "
        "once the "
        "policy is gone.",
    ),
)

_UNREAD = (
    _warning(
        "P471",
        "not-on-disk",
        "Git's index has this file or submodule and the disk does not: a sparse checkout leaves it out, it is marked "
        "skip-worktree or assume-unchanged, or the submodule is not checked out. Its policies are not gone, so plan and apply "
        "refuse to remove anything. Run the command in the message.",
    ),
    _warning(
        "P472",
        "passed-over",
        "The file looks like a policy file, by its content or its name, and is not read, since only *.yaml, *.yml and "
        "*.json are, and of these none whose name begins with a dot. Rename it, or move it out of the directory.",
    ),
    _warning(
        "P473",
        "idle-include",
        "A glob of include matches no file, so it includes nothing. It is compared with the whole path from the policy "
        "directory, case-sensitively: * also matches /, and there is no **, no {a,b} and no ./ at the beginning. A policy in a "
        "file that is not included counts as removed. Correct the glob, or remove it.",
    ),
)

_COMMENTS = (
    _warning(
        "P491",
        "useless-ignore",
        "A comment `# policyctl: ignore[CODE]` suppresses nothing: in no environment does that rule find anything on its "
        "line. It would hide the next real finding. Remove it, or move it to the line that is reported.",
    ),
    _warning(
        "P492",
        "bad-ignore",
        "A comment `# policyctl: ignore[…]` names no code, an unknown one, or one that cannot be ignored: only lint rules can, "
        "since what the others find cannot be applied. Write several codes in one pair of brackets, with commas.",
    ),
)

MODEL_RULES = (
    _warning(
        "P481",
        "unknown-provider",
        "The provider in a virtual model's name is not one that the platform's own CLI knows. Its server may take it all the "
        "same. Correct the name, or try the model before policies use it.",
    ),
    _warning(
        "P482",
        "setting-without-use",
        "A key of provider_config that the model's provider does not use. It is sent, and does nothing. Remove it, or correct "
        "the provider in the model's name.",
    ),
    _warning(
        "P483",
        "no-credentials",
        "What the provider needs is not in the file, and the model names no connection that may hold it. A new model cannot "
        "serve requests so; a live one keeps what its remote shows of it. Make a connection and write its app_id.",
    ),
    _warning(
        "P484",
        "not-sent",
        "A key that a virtual model does not have. The platform's own CLI sends it, and policyctl leaves it out. Remove it.",
    ),
    _warning(
        "P485",
        "no-max-tokens",
        "Anthropic's models have no default for max_tokens, and a call that does not set it fails. The platform's own CLI adds "
        "4096 when it imports a file without it; policyctl writes what the file has. Write config.max_tokens.",
    ),
)

LINT_RULES = (*_TARGETS, *_CODES, *_RETRIES, *_WEIGHTS, *_NAMES, *_SETTINGS, *_UNREAD, *MODEL_RULES, *_COMMENTS)


DEEP_RULES = (
    _warning(
        "P501",
        "timeout-ends-chain",
        "A call that takes too long counts as 408, and this fallback's list lacks 408: a request whose model is slow fails, "
        "though another target would have served it. Add 408 to on_status_codes. Checked by validate --deep and by plan.",
    ),
    _warning(
        "P502",
        "call-amplification",
        "One request may become more than 12 calls when models fail: retries multiply with targets, and so do cost and load "
        "at the worst moment. Lower attempts or list fewer targets; the guard max_calls sets your own limit in "
        "policyctl.yaml. Checked by validate --deep and by plan.",
    ),
    _info(
        "P503",
        "single-point-of-failure",
        "While one model, or one provider, answers every call with 500 or with 503, no request is served. Add a target of "
        "another provider under a fallback with these codes, or accept it; the guard survive in policyctl.yaml asks for "
        "more. Checked by validate --deep and by plan.",
    ),
)
